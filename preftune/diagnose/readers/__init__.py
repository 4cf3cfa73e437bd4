"""Logs of training runs, ours and other tools', as ``RunLog``; one file a format."""

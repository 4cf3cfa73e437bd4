"""How far the doctor can be trusted: real runs, healthy and broken on purpose, and what its detectors say of them."""

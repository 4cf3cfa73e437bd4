"""What becomes of the TRL and transformers config keys that are not fields of preftune's own configs.

A config written for ``trl dpo`` loads here: keys are read under our name (RENAMED), noted and left aside
(NO_EFFECT), or refused where leaving them aside would change what is trained (UNSUPPORTED).
The keys are those of trl 1.16 and transformers 5.23, and of the earlier releases that people still have
files for.
"""

from __future__ import annotations

from typing import Any, Final

# key -> (our key, what else the reader should know; "" where the name alone differs)
RENAMED: Final[dict[str, tuple[str, str]]] = {
    "model_name_or_path": ("model", ""),
    "model_revision": ("revision", ""),
    "torch_dtype": ("dtype", ""),
    "tokenizer_name": ("tokenizer", ""),
    "tokenizer_name_or_path": ("tokenizer", ""),
    "processing_class": ("tokenizer", ""),
    "ref_model_name_or_path": ("ref_model", ""),
    "dataset_name": ("data", ""),
    "train_dataset": ("data", ""),
    "eval_dataset": ("eval_data", ""),
    "dataset_train_split": ("split", ""),
    "dataset_test_split": ("eval_split", ""),
    "resume_from_checkpoint": ("resume", ""),
    "assistant_only_loss": ("completion_only_loss", "which also decides what of a conversation is learned"),
    "evaluation_strategy": ("eval_strategy", ""),
    "activation_checkpointing": ("gradient_checkpointing", ""),
    "kl_penalty": ("beta", "the weight that holds the policy near its reference"),
}

_DISTRIBUTED = "communication between devices is not configured here"
_EVALUATION = "evaluation sums its figures batch by batch"
_HUB = "nothing is uploaded"
_KERNELS = "the log-prob engine has kernels of its own"
_LOADER = "batches are packed in memory before they are needed, without a data loader"
_LOGS = "metrics.jsonl gets a line every logging_steps"
_PACKED = "rows are packed, never padded"
_ROLES = "the command decides whether to train or to evaluate"

# key -> why it does nothing here
NO_EFFECT: Final[dict[str, str]] = {
    "activation_checkpointing_kwargs": "checkpointing is always non-reentrant",
    "activation_offloading": "gradient_checkpointing is what saves activation memory",
    "auto_find_batch_size": "the batch keeps the size that is given",
    "average_tokens_across_devices": _DISTRIBUTED,
    "batch_eval_metrics": _EVALUATION,
    "bf16_full_eval": "evaluation runs in the precision of training",
    "bnb_4bit_quant_storage": "quantised weights are kept as bytes",
    "data_seed": "seed also decides the order of the data",
    "dataloader_in_order": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_num_workers": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_pin_memory": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "dataset_num_proc": "the data is tokenized in one process",
    "dataset_streaming": "the data is read whole before training starts",
    "ddp_backend": _DISTRIBUTED,
    "ddp_broadcast_buffers": _DISTRIBUTED,
    "ddp_bucket_cap_mb": _DISTRIBUTED,
    "ddp_find_unused_parameters": _DISTRIBUTED,
    "ddp_static_graph": _DISTRIBUTED,
    "ddp_timeout": _DISTRIBUTED,
    "disable_tqdm": "progress is a bar on a terminal and plain lines elsewhere",
    "discopop_tau": "it belongs to the discopop loss",
    "do_eval": _ROLES,
    "do_predict": _ROLES,
    "do_train": _ROLES,
    "eval_accumulation_steps": _EVALUATION,
    "eval_packing": "held-out demonstrations are scored one by one",
    "eval_do_concat_batches": _EVALUATION,
    "eval_on_start": "when to evaluate follows eval_strategy",
    "eval_use_gather_object": _EVALUATION,
    "f_alpha_divergence_coef": "it belongs to the alpha divergence",
    "fp16_full_eval": "evaluation runs in the precision of training",
    "generate_during_eval": "samples.jsonl is written in any case; num_samples says how many prompts",
    "gradient_checkpointing_kwargs": "checkpointing is always non-reentrant",
    "greater_is_better": "the last model is the one kept",
    "hub_always_push": _HUB,
    "hub_model_id": _HUB,
    "hub_private_repo": _HUB,
    "hub_revision": _HUB,
    "hub_strategy": _HUB,
    "hub_token": _HUB,
    "ignore_bias_buffers": _DISTRIBUTED,
    "include_for_metrics": _EVALUATION,
    "include_num_input_tokens_seen": _LOGS,
    "label_names": "the columns of preference data are known",
    "label_pad_token_id": _PACKED,
    "length_column_name": "lengths are counted here",
    "liger_kernel_config": _KERNELS,
    "local_rank": _DISTRIBUTED,
    "log_level": "--debug shows more",
    "log_level_replica": "--debug shows more",
    "log_on_each_node": _LOGS,
    "logging_first_step": _LOGS,
    "logging_nan_inf_filter": "the figures in metrics.jsonl are not filtered",
    "logging_strategy": _LOGS,
    "max_completion_length": "max_length alone decides where a row is cut",
    "max_prompt_length": "max_length alone decides where a row is cut",
    "metric_for_best_model": "the last model is the one kept",
    "no_cuda": "the device is the best one visible; CUDA_VISIBLE_DEVICES='' hides the GPUs",
    "overwrite_output_dir": "whether to continue in a folder that holds a run is decided by resume",
    "pad_to_multiple_of": _PACKED,
    "pad_token": _PACKED,
    "padding_free": "rows are always packed without padding",
    "padding_value": _PACKED,
    "precompute_ref_batch_size": "the reference reads batches of the same size as the policy",
    "prediction_loss_only": _EVALUATION,
    "project": "the tracker takes its project from its own environment variable",
    "ref_model_mixup_alpha": "the reference never moves",
    "ref_model_sync_steps": "the reference never moves",
    "remove_unused_columns": "columns that training does not use stay in the data and out of the batches",
    "restore_callback_states_from_checkpoint": "there are no callbacks",
    "save_on_each_node": "a run has one folder",
    "save_only_model": "a checkpoint always holds all that resuming needs",
    "shuffle_dataset": "train_sampling_strategy decides the order",
    "skip_memory_metrics": _LOGS,
    "target_kl": "the loss has no KL target; a larger beta holds the policy nearer to its reference",
    "tf32": "TensorFloat32 stays as torch has it",
    "torch_compile": "the model runs uncompiled",
    "torch_compile_backend": "the model runs uncompiled",
    "torch_compile_mode": "the model runs uncompiled",
    "torch_empty_cache_steps": "the memory cache is left to torch",
    "use_cache": "log-probs need no key-value cache",
    "use_cpu": "the device is the best one visible; CUDA_VISIBLE_DEVICES='' hides the GPUs",
    "use_liger_kernel": _KERNELS,
    "use_logits_to_keep": _KERNELS,
}

_REMOVE = "Leave it out"
_TRACKIO = f"{_REMOVE}: report_to names the trackers, and their own environment variables do the rest."
_SHARDING = f"{_REMOVE}: there is no sharded training here; use_peft and gradient_checkpointing save memory."

# key -> (values that ask for nothing special; null always does, what to do about any other)
UNSUPPORTED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "accelerator_config": (({},), f"{_REMOVE}."),
    "dataloader_drop_last": ((False,), f"{_REMOVE}: every row of an epoch is used, the last batch included."),
    "dataset_kwargs": (({},), f"{_REMOVE}: the columns of the data say how it is read."),
    "dataset_text_field": (("text",), "Name the column text."),
    "dataset_config": ((), "Save that configuration as a .jsonl or .parquet file and give the file as data."),
    "datasets": (([],), "Join the datasets in one file and give that as data."),
    "debug": (("", [], False), f"{_REMOVE}; --debug on the command line shows tracebacks."),
    "deepspeed": (("", {}, False), _SHARDING),
    "enable_jit_checkpoint": ((False,), "Set save_steps to how much work may be lost, and resume."),
    "eos_token": ((), "Set eos_token in the tokenizer's files."),
    "eval_delay": ((0,), f"{_REMOVE}, or set eval_steps."),
    "f_divergence_type": (("reverse_kl",), f"{_REMOVE}: it belongs to `preftune dpo`."),
    "fp16": ((False,), "Set bf16 instead: float16 loses the small differences between log-probs."),
    "fsdp": (("", [], False), _SHARDING),
    "fsdp_config": (({},), _SHARDING),
    "full_determinism": ((False,), f"{_REMOVE}: seed fixes the order of the data and all that is random."),
    "group_by_length": ((False,), f"{_REMOVE}: rows are packed, so grouping by length saves nothing."),
    "is_encoder_decoder": ((False,), f"{_REMOVE}: only decoders are trained."),
    "ignore_data_skip": ((False,), f"{_REMOVE}: a resumed run continues at the row where it stopped."),
    "label_smoothing_factor": ((0,), "Set label_smoothing, which is the one of preference losses."),
    "ld_alpha": ((1,), f"{_REMOVE}: it belongs to `preftune dpo`."),
    "load_best_model_at_end": ((False,), f"{_REMOVE}; save_steps keeps the checkpoints to choose from."),
    "lora_target_parameters": (([],), "Name the modules in lora_target_modules."),
    "lora_task_type": (("CAUSAL_LM",), f"{_REMOVE}: preference training is of causal language models."),
    "loss_type": (
        ("kto", "nll"),
        f"{_REMOVE}: this method has one loss; dpo and simpo have several.",
    ),
    "loss_weights": (([1],), f"{_REMOVE}: this method has one loss."),
    "model_init_kwargs": (({},), "Set dtype, attn_implementation, revision or trust_remote_code instead."),
    "neftune_noise_alpha": ((0,), f"{_REMOVE}: noise on the embeddings is not offered."),
    "optim_args": (("",), "Set adam_beta1, adam_beta2, adam_epsilon or weight_decay instead."),
    "optim_target_modules": (([],), f"{_REMOVE}: optimisers of selected layers are not offered."),
    "packing_strategy": (("bfd",), f"{_REMOVE}: packs are filled by best fit, and nothing is cut for it."),
    "parallelism_config": (({},), _SHARDING),
    "push_to_hub": ((False,), f"{_REMOVE}; upload the folder `model` of a finished run with `hf upload`."),
    "reference_free": ((False,), f"{_REMOVE}: DPO here is always against a reference."),
    "router_aux_loss_coef": ((0,), f"{_REMOVE}: the load-balancing loss of expert models is not offered."),
    "rpo_alpha": ((0,), f"{_REMOVE}: it belongs to `preftune dpo`."),
    "sync_ref_model": ((False,), f"{_REMOVE}: the reference never moves here."),
    "trackio_bucket_id": ((), _TRACKIO),
    "trackio_space_id": ((), _TRACKIO),
    "trackio_static_space_id": ((False,), _TRACKIO),
    "use_weighting": ((False,), f"{_REMOVE}: weighting pairs by their likelihood is not offered."),
}

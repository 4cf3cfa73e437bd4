"""A model of 0.9 million weights learns what is preferred: supervised first, then by DPO, on one core."""

from preftune.mini import (
    HELD_OUT_DATA,
    PREFERENCE_DATA,
    MiniGPT,
    copy_model_weights,
    dpo_train,
    evaluate_preference_accuracy,
    sft_train,
)

start = MiniGPT(vocab_size=256, embed_dim=128, num_heads=4, num_layers=4, max_seq_len=128, ff_dim=512)
start, sft_losses = sft_train(start, PREFERENCE_DATA, num_epochs=3, lr=1e-3)
print(f"supervised: {sft_losses[0]:.2f} -> {sft_losses[-1]:.2f} nats a byte")

policy = MiniGPT(vocab_size=256, embed_dim=128, num_heads=4, num_layers=4, max_seq_len=128, ff_dim=512)
reference = MiniGPT(vocab_size=256, embed_dim=128, num_heads=4, num_layers=4, max_seq_len=128, ff_dim=512)
copy_model_weights(start, policy)
copy_model_weights(start, reference)

before = evaluate_preference_accuracy(policy, reference, HELD_OUT_DATA)
policy, losses, margins = dpo_train(policy, reference, PREFERENCE_DATA, num_epochs=5, lr=5e-6, beta=0.1)
after = evaluate_preference_accuracy(policy, reference, HELD_OUT_DATA)

for epoch, (loss, margin) in enumerate(zip(losses, margins, strict=True), start=1):
    print(f"DPO epoch {epoch}: loss {loss:.4f}, margin {margin:+.4f} nats")
for name, accuracy in (("before", before), ("after", after)):
    interval = f"{100 * accuracy.low:.0f}% to {100 * accuracy.high:.0f}%"
    print(f"held-out accuracy {name}: {100 * accuracy.value:.0f}% (95% interval {interval}, n = {accuracy.n})")

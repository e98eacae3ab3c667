"""ckptlab: explore, foretell and run sharded PyTorch checkpoints."""

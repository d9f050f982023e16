"""Published checkpoints (safetensors) <-> our variables, one file a family.

`AutoencoderKL.from_pretrained(folder_or_hub_id)` and `save_pretrained(folder)` stand
on it. Nothing here unpickles: only safetensors and JSON are read.
"""

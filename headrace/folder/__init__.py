"""Folders of weights as Hugging Face lays them out: safetensors files, an index, config.json."""

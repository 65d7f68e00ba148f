"""The measuring half of `make gpu-check`: what loads cost the batches beside them on a GPU."""

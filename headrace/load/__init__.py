"""Open-loop load on any server of the Open Inference Protocol.

`plan` says what a load is, `run` runs it in processes of its own, `results` holds what came out,
`trials` finds the highest rate that meets an objective. `headrace load` is its command line.
"""

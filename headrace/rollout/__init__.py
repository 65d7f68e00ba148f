"""Carrying rollouts out: what gateways say of them, and the moves that follow."""

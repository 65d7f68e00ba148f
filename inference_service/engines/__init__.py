"""How a build of a program computes: eagerly, as an exported graph, or compiled."""

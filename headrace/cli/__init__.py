"""The command `headrace`; stands on top of every other package and imports them only when asked."""

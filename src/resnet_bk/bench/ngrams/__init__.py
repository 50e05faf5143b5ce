"""n-gram models on the tokens that a protocol's models are scored on."""

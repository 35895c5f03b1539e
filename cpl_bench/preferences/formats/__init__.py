"""How others keep preferences: a file a format, in and out."""

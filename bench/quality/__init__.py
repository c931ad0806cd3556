"""How much better the faces get."""

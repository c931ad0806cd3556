"""Other people's ways to show a call: whole frames enlarged, and the paper's method for faces."""

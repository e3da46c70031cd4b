"""How each method is trained: its formula, the TRL trainer and settings that compute it, and what it must then give."""

"""What the user asks for: the specification of a study and its errors."""

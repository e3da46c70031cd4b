"""Pretraining, SFT, reference log-probabilities and alignment."""

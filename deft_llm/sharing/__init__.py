"""Sharing: the card of a trained model, and its folder on the Hub."""

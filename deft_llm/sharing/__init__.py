"""Sharing: write the card of a trained model, and push its folder to the Hub."""

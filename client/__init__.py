"""What the wearable runs."""

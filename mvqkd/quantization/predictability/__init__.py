"""What can be predicted of codes from features: measured, and in choosing the codes."""

"""A file a tab."""

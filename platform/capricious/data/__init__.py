"""Records, collections and the prepared dataset."""

"""Decision rules of the field and our own, all behind one small protocol."""

"""Import of structures from files: readers, labels, filters, packing."""

"""Files of structures on their way into a dataset: readers, labels, filters, packing."""

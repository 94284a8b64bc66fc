"""Units of memory, in bytes. The engine needs no settings, so these are apart from them."""

MIB = 2**20
GIB = 2**30

"""Experts of a mixture in 4 bits: how they are stored, loaded, multiplied and adapted.

transformers stores the experts of a layer as 3-D parameters, which bitsandbytes' quantisation of linear layers leaves in 16 bits.
"""

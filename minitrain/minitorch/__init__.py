"""minitorch: a tape autograd on NumPy, just large enough for a GPT.

``tape`` records and runs backward, ``ops`` and ``sequence_ops`` hold the operations and their gradients, ``nn`` names
parameters and lays them out flat, ``optim`` and ``schedule`` update them, ``gradcheck`` proves a gradient
by finite differences. Nothing here knows of text, files or GPTs.
"""

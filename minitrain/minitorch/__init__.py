"""minitorch: a tape autograd on NumPy, just large enough for a GPT.

``tape`` records and runs backward, ``ops`` is the table of operations and their gradients, ``nn`` names
parameters and lays them out flat, ``optim`` and ``schedule`` update them, ``memory`` keeps what freed
arrays leave for the next, ``gradcheck`` proves a gradient by finite differences. Nothing here knows of
text, files or GPTs.
"""

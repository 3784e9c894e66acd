"""minitorch: a tape autograd on NumPy, just large enough for a GPT.

``arena`` is where a step's arrays live, ``tape`` records and runs backward, ``ops`` is the table of
operations and their gradients, ``nn`` names parameters and lays them out flat, ``optim`` and
``schedule`` update them, ``gradcheck`` proves a gradient by finite differences. Nothing here knows of
text, files or GPTs.
"""

"""Golden results: what every algorithm gives on a tiny problem, so that whoever moves code sees at once what changed.

`python -m tests.golden [NAMES]`, from the root, makes them again and says what changed and by how much; look at that
before it is committed. Tests compare to the last bit on the machine that made a file, by its processor, packages and
flags, and to 1e-5 elsewhere. small.py: what cases share. cases.py, constructions.py: the cases. studies.py: the slow
ones. store.py: how results are kept, in results/, and compared.
"""

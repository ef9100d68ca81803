import hashlib

from aps_components.data.drawn import drawn


def test_it_is_the_hash_that_the_docs_name():
    assert drawn("hippocampus_001", seed=3) == hashlib.sha256(b"3:hippocampus_001").hexdigest()


def test_further_names_leave_the_order_of_the_others():
    names = [f"case_{number}" for number in range(20)]
    order = sorted(names, key=lambda name: drawn(name, seed=0))
    more = sorted([*names, "another"], key=lambda name: drawn(name, seed=0))
    assert order == [name for name in more if name != "another"] != names
    assert order != sorted(names, key=lambda name: drawn(name, seed=1))

from cofm_triton import reference


def test_every_export_exists_once() -> None:
    assert len(set(reference.__all__)) == len(reference.__all__)
    assert all(hasattr(reference, name) for name in reference.__all__)

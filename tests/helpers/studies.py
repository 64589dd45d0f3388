"""Small studies of experiments."""

from experiments.options import changes_of


def small_studies(config, size, small, sizes):
    """Make a function (out, **changes) to options: `small` of the study, `sizes` of its size, and changes of either."""

    def study_of(out, **changes):
        own = {name: value for name, value in changes.items() if name not in sizes}
        changed = {name: value for name, value in changes.items() if name in sizes}
        return config(**{**small, **own}, size=changes_of(size, **{**sizes, **changed}), out=str(out))

    return study_of

"""The mistakes of `mutants.yaml` go with the code: each can still be made."""

from tests.mutants import ROOT, mutants


def test_what_a_mutant_changes_stands_once() -> None:
    for mutant in mutants():
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant

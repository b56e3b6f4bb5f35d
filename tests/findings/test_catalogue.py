from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import lightning_tuning.rules  # fills the catalogue
from lightning_tuning.findings import CATALOGUE, Catalogue, Rule, Severity, UnknownRuleError
from lightning_tuning.findings.declarations import declared_rules, register_declared_rules

RULE = Rule("LT101", "bad-data", Severity.ERROR, "fact", why="It is.", remedy="Clean it.", source="Measured.")


def test_a_second_rule_under_a_code_or_name_is_refused() -> None:
    catalogue = Catalogue()
    catalogue.add(RULE)
    with pytest.raises(ValueError, match="LT101 other clashes with LT101 bad-data"):
        catalogue.add(dataclasses.replace(RULE, name="other"))
    with pytest.raises(ValueError, match="LT102 bad-data clashes"):
        catalogue.add(dataclasses.replace(RULE, code="LT102"))


def test_retired_codes_lead_to_their_successors_and_are_never_reused() -> None:
    catalogue = Catalogue()
    catalogue.add(RULE)
    catalogue.retire("LT100", successor="LT101")
    assert catalogue["LT100"] is RULE
    assert "LT100" in catalogue
    with pytest.raises(ValueError, match="LT100 is retired"):
        catalogue.add(dataclasses.replace(RULE, code="LT100", name="other"))
    with pytest.raises(ValueError, match="`code` LT101 is still a rule"):
        catalogue.retire("LT101", successor="LT101")
    with pytest.raises(ValueError, match="`successor` must be the code of a rule, got 'LT555'"):
        catalogue.retire("LT103", successor="LT555")


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UnknownRuleError, match=r"no rule 'LT6011'.*LT601") as error:
        CATALOGUE["LT6011"]
    assert "LT601" in error.value.nearest
    with pytest.raises(UnknownRuleError) as error:
        CATALOGUE["exploding-gradients"]
    assert error.value.nearest[0] == "LT601"


def test_rules_are_found_by_code_name_and_prefix_in_any_case() -> None:
    assert CATALOGUE["lt601"] is CATALOGUE["exploding-gradient"] is CATALOGUE["LT601"]
    assert [rule.code for rule in CATALOGUE.matching("LT7")] == ["LT701", "LT702", "LT703", "LT704"]
    assert [rule.code for rule in CATALOGUE] == sorted(rule.code for rule in CATALOGUE)


@pytest.mark.parametrize("rule", CATALOGUE, ids=lambda rule: rule.code)
def test_every_rule_says_why_what_to_do_and_where_it_comes_from(rule: Rule) -> None:
    assert len(rule.why) > 40
    assert len(rule.remedy) > 20
    assert len(rule.source) > 10
    assert "!" not in rule.why + rule.remedy


RULES = Path(lightning_tuning.rules.__file__).parent


def test_what_is_read_off_the_source_is_what_is_registered() -> None:
    assert sorted(declared_rules(RULES), key=lambda rule: rule.code) == list(CATALOGUE)
    register_declared_rules(RULES)  # once more changes nothing
    assert len(list(CATALOGUE)) == len(list(declared_rules(RULES)))


def test_a_computed_declaration_is_refused(tmp_path: Path) -> None:
    odd = 'Rule("LT999", "odd", Severity.INFO, "fact", why=why(), remedy="", source="")'
    (tmp_path / "odd.py").write_text(odd)
    with pytest.raises(ValueError, match="malformed"):
        list(declared_rules(tmp_path))

"""Every rule by its code. Filled by the declarations in ``lightning_tuning.rules``, never by hand."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from lightning_tuning.findings.rule import Rule

__all__ = ["CATALOGUE", "Catalogue", "UnknownRuleError", "register"]


class UnknownRuleError(KeyError):
    """There is no rule of that code or name; ``nearest`` holds the codes that come closest."""

    def __init__(self, asked: str, nearest: list[str]) -> None:
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        super().__init__(f"There is no rule {asked!r}.{hint}")
        self.nearest = nearest

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


class Catalogue:
    """The rules by code, in order of their codes.

    Codes are stable: a second rule under a code is refused, and a retired code redirects to its successor for ever.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> catalogue = Catalogue()
        >>> rule = Rule("LT999", "too-much", Severity.INFO, "fact", why="It is.", remedy="Less.", source="Measured.")
        >>> catalogue.add(rule) is catalogue["too-much"]
        True
        >>> catalogue.retire("LT998", successor="LT999")
        >>> catalogue["lt998"].code
        'LT999'
    """

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._retired: dict[str, str] = {}

    def add(self, rule: Rule) -> Rule:
        """Take ``rule`` in and return it; the same once more is no clash.

        Raises:
            ValueError: if its code or name is taken, or its code is retired.
        """
        if self._rules.get(rule.code) == rule:
            return self._rules[rule.code]
        for known in self._rules.values():
            if rule.code == known.code or rule.name == known.name:
                raise ValueError(
                    f"{rule.code} {rule.name} clashes with {known.code} {known.name}: codes and names are unique."
                )
        if rule.code in self._retired:
            raise ValueError(f"{rule.code} is retired in favour of {self._retired[rule.code]}: codes are never reused.")
        self._rules[rule.code] = rule
        return rule

    def retire(self, code: str, *, successor: str) -> None:
        """Let ``code`` redirect to ``successor`` from now on.

        Raises:
            ValueError: if ``code`` is still in use or ``successor`` is not a rule.
        """
        if code in self._rules:
            raise ValueError(f"`code` {code} is still a rule; only a code that is out of use can be retired.")
        if successor not in self._rules:
            raise ValueError(f"`successor` must be the code of a rule, got {successor!r}.")
        self._retired[code] = successor

    def __getitem__(self, asked: str) -> Rule:
        """The rule of that code or name, in any case; retired codes lead to their successors.

        Raises:
            UnknownRuleError: naming the nearest codes.
        """
        code = asked.strip().upper()
        code = self._retired.get(code, code)
        if code in self._rules:
            return self._rules[code]
        by_name = {rule.name: rule for rule in self._rules.values()}
        if asked.strip().lower() in by_name:
            return by_name[asked.strip().lower()]
        near_codes = difflib.get_close_matches(code, self._rules, n=3)
        near_names = difflib.get_close_matches(asked.strip().lower(), by_name, n=3)
        raise UnknownRuleError(asked, list(dict.fromkeys([*near_codes, *(by_name[name].code for name in near_names)])))

    def __contains__(self, code: object) -> bool:
        return code in self._rules or code in self._retired

    def __iter__(self) -> Iterator[Rule]:
        return iter(sorted(self._rules.values(), key=lambda rule: rule.code))

    def __len__(self) -> int:
        return len(self._rules)

    def matching(self, prefix: str) -> list[Rule]:
        """The rules whose code starts with ``prefix`` (``"LT6"`` is every rule on gradients)."""
        return [rule for rule in self if rule.code.startswith(prefix.upper())]


CATALOGUE = Catalogue()
register = CATALOGUE.add

"""What is said: findings, severities, the declarations of rules, and the journal of a run. No torch, no Lightning."""

from lightning_tuning.findings.catalogue import CATALOGUE, Catalogue, UnknownRuleError, register
from lightning_tuning.findings.diagnosis import Diagnose, Diagnosis, Suspect, TellsDiagnosis
from lightning_tuning.findings.errors import TuningError, TuningWarning
from lightning_tuning.findings.finding import Evidence, Finding, Severity
from lightning_tuning.findings.gate import PERSISTENCE, OutcomeGate, ProgressState
from lightning_tuning.findings.journal import Journal, OnFinding
from lightning_tuning.findings.reporter import Reporter
from lightning_tuning.findings.rule import Kind, Rule
from lightning_tuning.findings.selection import Selection
from lightning_tuning.findings.verdict import Outcome, TellsVerdicts, Verdict

__all__ = [
    "CATALOGUE",
    "PERSISTENCE",
    "Catalogue",
    "Diagnose",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Journal",
    "Kind",
    "OnFinding",
    "Outcome",
    "OutcomeGate",
    "ProgressState",
    "Reporter",
    "Rule",
    "Selection",
    "Severity",
    "Suspect",
    "TellsDiagnosis",
    "TellsVerdicts",
    "TuningError",
    "TuningWarning",
    "UnknownRuleError",
    "Verdict",
    "register",
]

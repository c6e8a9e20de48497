"""Tasks, attacks and environments of AgentDojo (PyPI `agentdojo`), without a model.

The package imports the clients of five model vendors when it is loaded. None of them is installed: an import hook
gives empty modules instead, so that whatever would reach a model fails.
"""

import importlib.abc
import importlib.machinery
import sys
import types

VENDORS = {"anthropic", "cohere", "google", "langchain", "langchain_core", "openai", "vertexai"}


class _Nothing(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing

    def __call__(cls, *_, **__):
        raise RuntimeError("a model's client was used")


class Nothing(metaclass=_Nothing):
    def __class_getitem__(cls, _):
        return cls


class _Module(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class _Vendors(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in VENDORS:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        """Nothing is in it."""


sys.meta_path.insert(0, _Vendors())

from agentdojo.agent_pipeline.tool_execution import tool_result_to_str  # noqa: E402
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime  # noqa: E402
from agentdojo.task_suite.load_suites import get_suites  # noqa: E402
from agentdojo.types import text_content_block_from_string  # noqa: E402

__all__ = ["Play", "get_suites", "intent", "listed"]


def intent(task):
    """The user's prompt, in one line: what a person would declare as the intent of the task."""
    return " ".join(task.PROMPT.split())


def listed(suite):
    """The suite's tools as an MCP server lists them."""
    return [
        {"name": tool.name, "description": tool.description, "inputSchema": tool.parameters.model_json_schema()}
        for tool in suite.tools
    ]


class Play:
    """One task in a fresh environment, which the server's tools work on."""

    def __init__(self, suite, user, attack=None):
        self.suite, self.user, self.attack = suite, user, attack
        self.environment = user.init_environment(suite.load_and_inject_default_environment({}))
        self.before = self.environment.model_copy(deep=True)
        self.runtime, self.done = FunctionsRuntime(suite.tools), []

    def run(self, name, arguments):
        """Runs a tool as AgentDojo's own pipeline does; returns its text, and if it failed."""
        self.done.append(FunctionCall(function=name, args=arguments))
        result, error = self.runtime.run_function(self.environment, name, arguments)
        return (error, True) if error else (tool_result_to_str(result), False)

    def calls(self, task):
        return task.ground_truth(self.before.model_copy(deep=True))

    def is_served(self):
        """AgentDojo's own check of the user's task, after the calls that reached the server."""
        return self._check(self.user)

    def is_through(self):
        """AgentDojo's own check of the attack's goal, after the calls that reached the server."""
        return self._check(self.attack)

    def _check(self, task):
        said = [text_content_block_from_string(task.GROUND_TRUTH_OUTPUT)]
        return bool(self.suite._check_task_result(task, said, self.before, self.environment, self.done))

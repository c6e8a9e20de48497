"""What the clients do, step by step: one plan a server. The same plan runs straight and through the gateway."""

# More than the 64 KiB that Pingora reads ahead and more than one TLS or HTTP buffer, but below the 1 MiB that the
# Python client takes in one event.
LONG_TEXT = "0123456789abcdef" * 20_000

# Characters that a re-encoding on the way would change: escapes, astral planes, separators that JSON does not escape.
ODD_TEXT = 'quote " backslash \\ slash / tab \t é 漢字 🦀 \u2028 \u0000 end'


def _call(name, progress=0, **arguments):
    return {"op": "call_tool", "name": name, "arguments": arguments, "progress": progress}


EVERYTHING = [
    {"op": "ping"},
    {"op": "set_log_level", "level": "error"},
    {"op": "list_tools"},
    _call("echo", message="hello"),
    _call("echo", message=ODD_TEXT),
    _call("echo", message=LONG_TEXT),
    _call("get-sum", a=40.5, b=1.5),
    _call("get-structured-content", location="Chicago"),
    _call("get-tiny-image"),
    _call("get-annotated-message", messageType="error", includeImage=True),
    _call("get-resource-links", count=3),
    # A tool that asks the client something: its answer travels as a POST of its own.
    _call("trigger-sampling-request", prompt="say hello", maxTokens=10),
    # Wrong arguments: the server's own error must arrive as the server wrote it.
    _call("get-sum", a="forty", b=2),
    {"op": "call_tools_at_once", "calls": [_call("get-sum", a=number, b=1) for number in range(20)]},
    _call("trigger-long-running-operation", duration=2, steps=5, progress=5),
    {"op": "list_resources"},
    {"op": "list_resource_templates"},
    {"op": "read_resource", "uri": "demo://resource/static/document/features.md"},
    {"op": "read_resource", "uri": "demo://resource/dynamic/text/1"},
    {"op": "read_resource", "uri": "demo://resource/dynamic/blob/2"},
    {"op": "list_prompts"},
    {"op": "get_prompt", "name": "simple-prompt"},
    {"op": "get_prompt", "name": "args-prompt", "arguments": {"city": "Oslo", "state": "none"}},
    {
        "op": "complete",
        "ref": {"type": "ref/prompt", "name": "completable-prompt"},
        "argument": {"name": "department", "value": "S"},
    },
    {
        "op": "complete",
        "ref": {"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"},
        "argument": {"name": "resourceId", "value": "7"},
    },
]

SDK_SERVER = [
    {"op": "list_tools"},
    _call("echo", message="hello"),
    _call("echo", message=ODD_TEXT),
    _call("echo", message=LONG_TEXT),
    _call("add", a=40, b=2),
    _call("fail"),
    {"op": "call_tools_at_once", "calls": [_call("add", a=number, b=1) for number in range(20)]},
    _call("work", steps=5, step_ms=400, progress=5),
    {"op": "list_resources"},
    {"op": "list_resource_templates"},
    {"op": "read_resource", "uri": "test://greeting"},
    {"op": "read_resource", "uri": "test://square/12"},
    {"op": "list_prompts"},
    {"op": "get_prompt", "name": "review", "arguments": {"code": "let x = 1;"}},
]

# A command line takes no NUL and no more than 128 KiB in a word.
SHELL_TEXT = ODD_TEXT.replace("\u0000", "")


def for_a_command_line(plan):
    """What of a plan one process a step can do, with arguments that fit on a command line."""
    known = {"list_tools", "list_resources", "list_resource_templates", "read_resource", "list_prompts", "get_prompt", "call_tool"}
    steps = [step for step in plan if step["op"] in known and not step.get("progress")]
    steps = [step for step in steps if step.get("name") != "trigger-sampling-request"]
    fitting = [step for step in steps if step.get("arguments", {}).get("message") not in (LONG_TEXT, ODD_TEXT)]
    return [*fitting, _call("echo", message=SHELL_TEXT)]


def grants(transcript):
    """What a session needs for a plan: the names that the straight run listed, and the templates' prefixes."""
    tools, resources, prompts = set(), set(), set()
    for done in transcript["steps"]:
        result = done["result"]
        if done["op"] == "list_tools":
            tools |= {tool["name"] for tool in result["tools"]}
        elif done["op"] == "list_resources":
            resources |= {resource["uri"] for resource in result["resources"]}
        elif done["op"] == "list_resource_templates":
            # What a template stands for is granted by the part that its URIs share.
            resources |= {template["uriTemplate"].split("{")[0] + "*" for template in result["resourceTemplates"]}
        elif done["op"] == "list_prompts":
            prompts |= {prompt["name"] for prompt in result["prompts"]}
    return {
        "authorized_tools": sorted(tools),
        "authorized_resources": sorted(resources),
        "authorized_prompts": sorted(prompts),
    }

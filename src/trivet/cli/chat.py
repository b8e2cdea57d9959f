"""`trivet chat`"""

import asyncio
import sys
from typing import Annotated, Any

import typer

from trivet.cli.output import print_json, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, reach


def chat(
    prompt: Annotated[str, typer.Argument(help="What to say; `-` reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="auto, a tier, or a deployment.")] = "auto",
    scope: Annotated[str | None, typer.Option(help="Charge this scope (admin keys and the owner).")] = None,
    task_type: Annotated[str | None, typer.Option(help="For example fix_bug, simple_query.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cap on generated tokens.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask one question; print the answer, the tier that gave it, and why.

    Examples:
      trivet chat "What is a trivet?"
      git diff | trivet chat - --task-type fix_bug --model heavy
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    options: dict[str, Any] = {"max_tokens": max_tokens} if max_tokens is not None else {}

    async def talk() -> None:
        async with reach(Address(url, api_key, config), with_engines=True) as trivet:
            if as_json:
                answer = await trivet.complete(text, model=model, scope=scope, task_type=task_type, **options)
                facts = answer.facts
                print_json(
                    {
                        "text": answer.text,
                        "tier": facts.tier,
                        "model": facts.model,
                        "reason": facts.reason,
                        "complexity": facts.complexity,
                        "attempts": facts.attempts,
                        "budget_remaining": facts.budget_remaining,
                        "usage": answer.usage,
                        "request_id": facts.request_id,
                    }
                )
                return
            async with await trivet.complete(
                text, model=model, scope=scope, task_type=task_type, stream=True, **options
            ) as stream:
                async for piece in stream.texts():
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                sys.stdout.write("\n")
                facts = stream.facts
            say(f"[{facts.tier}: {facts.model}] {facts.reason}")

    asyncio.run(talk())

"""The answer of `LLMClient`: OpenAI's own object. Importing this imports openai, which takes a second."""

from openai.types.chat import ChatCompletion
from openai.types.completion_usage import CompletionUsage


class ChatAnswer(ChatCompletion):
    """A chat completion whose usage is always there: the engine's where it can be true, else a ceiling."""

    usage: CompletionUsage

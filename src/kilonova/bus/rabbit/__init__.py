"""The bus over RabbitMQ: the same verbs between processes.

A process has two connections, whatever it serves: ``requests`` sends calls and casts and gets the replies,
``deliveries`` takes messages, answers and acknowledges. Each is touched by one thread of its own (py-amqp's
connections are not thread-safe, OpenSSL's even less); other threads hand it jobs. Who collects what is told
has a third, ``told``.

For each topic two queues are bound to one topic exchange: one for casts, one for calls, so that a call is
answered while long work waits. py-amqp is used without kombu, which costs as much again a message, for
pools and transports that are not needed here.
"""

from kilonova.bus.rabbit.bus import RabbitBus

__all__ = ["RabbitBus"]

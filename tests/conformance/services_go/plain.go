package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	restate "github.com/restatedev/sdk-go"
)

type witnessed struct {
	Witness string `json:"witness"`
}

// publish makes an awakeable, whose id a step notes.
func publish(ctx restate.Context, witness string) (restate.AwakeableFuture[json.RawMessage], error) {
	made := restate.Awakeable[json.RawMessage](ctx)
	_, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
		return note(witness, made.Id())
	}, restate.WithName("publish"))
	return made, err
}

func echo(_ restate.Context, value json.RawMessage) (json.RawMessage, error) {
	return value, nil
}

type manySteps struct {
	Witness string `json:"witness"`
	Count   int    `json:"count"`
	Ms      int    `json:"ms,omitempty"`
}

func many(ctx restate.Context, command manySteps) (int, error) {
	total := 0
	for i := range command.Count {
		made, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
			_, err := note(command.Witness, i)
			time.Sleep(time.Duration(command.Ms) * time.Millisecond)
			return i, err
		}, restate.WithName(fmt.Sprintf("step %d", i)))
		if err != nil {
			return 0, err
		}
		total += made
	}
	return total, nil
}

type flakyStep struct {
	Witness  string `json:"witness"`
	Failures int    `json:"failures"`
}

func flaky(ctx restate.Context, command flakyStep) (int, error) {
	return restate.Run(
		ctx,
		func(restate.RunContext) (int, error) {
			count, err := note(command.Witness, "")
			if err == nil && count <= command.Failures {
				err = errors.New("not yet")
			}
			return count, err
		},
		restate.WithName("flaky"),
		restate.WithInitialRetryInterval(20*time.Millisecond),
		restate.WithMaxRetryInterval(20*time.Millisecond),
		restate.WithRetryIntervalFactor(1),
	)
}

type failure struct {
	Witness  string            `json:"witness"`
	Code     uint16            `json:"code"`
	Message  string            `json:"message"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func terminal(_ restate.Context, command failure) (restate.Void, error) {
	if _, err := note(command.Witness, ""); err != nil {
		return restate.Void{}, err
	}
	return restate.Void{}, restate.ToTerminalError(
		errors.New(command.Message),
		restate.WithErrorCode(restate.Code(command.Code)),
		restate.WithMetadataMap(command.Metadata),
	)
}

type target struct {
	Service        string            `json:"service"`
	Handler        string            `json:"handler"`
	Key            *string           `json:"key,omitempty"`
	Value          json.RawMessage   `json:"value"`
	IdempotencyKey string            `json:"idempotency_key,omitempty"`
	Headers        map[string]string `json:"headers,omitempty"`
	DelayMs        int               `json:"delay_ms,omitempty"`
}

func call(ctx restate.Context, command target) (json.RawMessage, error) {
	client := restate.Service[json.RawMessage](ctx, command.Service, command.Handler)
	if command.Key != nil {
		client = restate.Object[json.RawMessage](ctx, command.Service, *command.Key, command.Handler)
	}
	return client.Request(
		command.Value, restate.WithIdempotencyKey(command.IdempotencyKey), restate.WithHeaders(command.Headers),
	)
}

func send(ctx restate.Context, command target) (string, error) {
	client := restate.ServiceSend(ctx, command.Service, command.Handler)
	if command.Key != nil {
		client = restate.ObjectSend(ctx, command.Service, *command.Key, command.Handler)
	}
	sent := client.Send(
		command.Value,
		restate.WithIdempotencyKey(command.IdempotencyKey),
		restate.WithHeaders(command.Headers),
		restate.WithDelay(time.Duration(command.DelayMs)*time.Millisecond),
	)
	return sent.GetInvocationId(), nil
}

type nap struct {
	Ms     int    `json:"ms"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

func sleep(ctx restate.Context, command nap) (string, error) {
	noted := func(name, witness string) error {
		if witness == "" {
			return nil
		}
		_, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
			return note(witness, "")
		}, restate.WithName(name))
		return err
	}
	if err := noted("before", command.Before); err != nil {
		return "", err
	}
	if err := restate.Sleep(ctx, time.Duration(command.Ms)*time.Millisecond); err != nil {
		return "", err
	}
	return "slept", noted("after", command.After)
}

func awakeable(ctx restate.Context, command witnessed) (json.RawMessage, error) {
	answer, err := publish(ctx, command.Witness)
	if err != nil {
		return nil, err
	}
	return answer.Result()
}

type undoable struct {
	Witness string `json:"witness"`
	Undone  string `json:"undone"`
}

func compensated(ctx restate.Context, command undoable) (json.RawMessage, error) {
	answer, err := publish(ctx, command.Witness)
	if err != nil {
		return nil, err
	}
	value, failed := answer.Result()
	if failed == nil {
		return value, nil
	}
	if _, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
		return note(command.Undone, "")
	}, restate.WithName("undo")); err != nil {
		return nil, err
	}
	return nil, failed
}

func said(restate.Context, restate.Void) (string, error) {
	return version, nil
}

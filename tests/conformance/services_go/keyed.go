package main

import (
	"encoding/json"
	"slices"

	restate "github.com/restatedev/sdk-go"
)

func add(ctx restate.ObjectContext, amount int) (int, error) {
	total, err := restate.Get[int](ctx, "total")
	if err != nil {
		return 0, err
	}
	restate.Set(ctx, "total", total+amount)
	return total + amount, nil
}

func get(ctx restate.ObjectSharedContext, _ restate.Void) (int, error) {
	return restate.Get[int](ctx, "total")
}

func names(ctx restate.ObjectSharedContext, _ restate.Void) ([]string, error) {
	found, err := restate.Keys(ctx)
	if err != nil {
		return nil, err
	}
	known := append([]string{}, found...) // not nil, which is null in JSON
	slices.Sort(known)
	return known, nil
}

func read(ctx restate.ObjectSharedContext, wanted []string) ([]any, error) {
	values := make([]any, len(wanted))
	for i, name := range wanted {
		value, err := restate.Get[any](ctx, name)
		if err != nil {
			return nil, err
		}
		values[i] = value
	}
	return values, nil
}

func script(ctx restate.ObjectContext, operations [][]any) ([]any, error) {
	results := make([]any, len(operations))
	for i, operation := range operations {
		result, err := perform(ctx, operation)
		if err != nil {
			return nil, err
		}
		results[i] = result
	}
	return results, nil
}

func perform(ctx restate.ObjectContext, operation []any) (any, error) {
	named := func() string { return operation[1].(string) }
	switch operation[0] {
	case "set":
		restate.Set(ctx, named(), operation[2])
	case "get":
		return restate.Get[any](ctx, named())
	case "clear":
		restate.Clear(ctx, named())
	case "clear_all":
		restate.ClearAll(ctx)
	case "keys":
		return names(ctx, restate.Void{})
	default:
		return nil, restate.TerminalErrorf("no such operation: %v", operation[0])
	}
	return nil, nil
}

type run struct {
	Witness string `json:"witness"`
	Wait    bool   `json:"wait"`
}

func approve(ctx restate.WorkflowContext, command run) (json.RawMessage, error) {
	if _, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
		return note(command.Witness, "")
	}, restate.WithName("begin")); err != nil {
		return nil, err
	}
	if !command.Wait {
		return json.RawMessage(`"at once"`), nil
	}
	restate.Set(ctx, "status", "waiting")
	decision, err := restate.Promise[json.RawMessage](ctx, "decision").Result()
	if err != nil {
		return nil, err
	}
	restate.Set(ctx, "status", "done")
	return decision, nil
}

func decide(ctx restate.WorkflowSharedContext, value json.RawMessage) (string, error) {
	if err := restate.Promise[json.RawMessage](ctx, "decision").Resolve(value); err != nil {
		return "", err
	}
	return "decided", nil
}

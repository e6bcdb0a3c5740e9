// The services of the contract that a few cases need, written with the official Go SDK. `PORT`, `PREFIX`, `VERSION`
// and `WITNESS_DIR` say how they are served, until the process is killed.
package main

import (
	"context"
	"log"
	"os"
	"time"

	restate "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/server"
)

func main() {
	quickly := restate.WithInvocationRetryPolicy(
		restate.WithInitialRetryInterval(20*time.Millisecond),
		restate.WithRetryIntervalFactor(2),
		restate.WithMaxRetryInterval(200*time.Millisecond),
		restate.WithMaxRetryAttempts(10_000),
	)
	brief := restate.WithInactivityTimeout(200 * time.Millisecond)

	services := []restate.ServiceDefinition{
		restate.NewService(prefix+"Echo", quickly).Handler("echo", restate.NewServiceHandler(echo)),
		restate.NewService(prefix+"Steps", quickly).
			Handler("many", restate.NewServiceHandler(many)).
			Handler("flaky", restate.NewServiceHandler(flaky)),
		restate.NewService(prefix+"Failing", quickly).Handler("terminal", restate.NewServiceHandler(terminal)),
		restate.NewService(prefix+"Caller", quickly, brief).
			Handler("call", restate.NewServiceHandler(call)).
			Handler("send", restate.NewServiceHandler(send)),
		restate.NewService(prefix+"Timers", quickly, brief).Handler("sleep", restate.NewServiceHandler(sleep)),
		restate.NewService(prefix+"Waiting", quickly, brief).
			Handler("awakeable", restate.NewServiceHandler(awakeable)),
		restate.NewService(prefix+"Cancellable", quickly, brief).
			Handler("compensated", restate.NewServiceHandler(compensated)),
		restate.NewService(prefix+"Versioned", quickly, brief).Handler("version", restate.NewServiceHandler(said)),
		restate.NewObject(prefix+"Counter", quickly, brief).
			Handler("add", restate.NewObjectHandler(add)).
			Handler("get", restate.NewObjectSharedHandler(get)),
		restate.NewWorkflow(prefix+"Approval", quickly, brief).
			Handler("run", restate.NewWorkflowHandler(approve)).
			Handler("decide", restate.NewWorkflowSharedHandler(decide)),
	}
	for name, lazy := range map[string]bool{"Store": false, "LazyStore": true} {
		services = append(services, restate.NewObject(prefix+name, quickly, restate.WithEnableLazyState(lazy)).
			Handler("script", restate.NewObjectHandler(script)).
			Handler("read", restate.NewObjectSharedHandler(read)).
			Handler("names", restate.NewObjectSharedHandler(names)))
	}

	serving := server.NewRestate()
	for _, service := range services {
		serving.Bind(service)
	}
	log.Fatal(serving.Start(context.Background(), "127.0.0.1:"+os.Getenv("PORT")))
}

// An admission policy of the standard library alone. It wants the annotations that its settings name, refuses those that they forbid,
// sets those that they have for everybody, and looks up a host or asks its own for whatever they say.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"unsafe"
)

type settings struct {
	Required  map[string]string `json:"requiredAnnotations"`
	Forbidden []string          `json:"forbiddenAnnotations"`
	Lookup    string            `json:"lookUp"`
	Ask       *question         `json:"ask"`
}

type question struct {
	Namespace string          `json:"namespace"`
	Operation string          `json:"operation"`
	Payload   json.RawMessage `json:"payload"`
}

type request struct {
	Settings settings `json:"settings"`
	Request  struct {
		Object map[string]any `json:"object"`
	} `json:"request"`
}

//go:wasmimport host call
func hostCall(bindingAt, bindingLength, namespaceAt, namespaceLength, operationAt, operationLength, payloadAt, payloadLength uint32) uint32

func place(text string) (uint32, uint32) {
	return uint32(uintptr(unsafe.Pointer(unsafe.StringData(text)))), uint32(len(text))
}

// ask calls the host, whose answer is what standard input has then.
func ask(namespace, operation, payload string) (string, bool) {
	bindingAt, bindingLength := place("kubewarden")
	namespaceAt, namespaceLength := place(namespace)
	operationAt, operationLength := place(operation)
	payloadAt, payloadLength := place(payload)
	failed := hostCall(bindingAt, bindingLength, namespaceAt, namespaceLength, operationAt, operationLength, payloadAt, payloadLength)
	answer, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err.Error())
	}
	return string(answer), failed == 0
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(7)
}

func say(answer any) {
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err.Error())
	}
}

func main() {
	if len(os.Args) != 2 {
		fail("one argument is needed")
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err.Error())
	}
	switch os.Args[1] {
	case "validate-settings":
		validateSettings(input)
	case "validate":
		validate(input)
	default:
		fail("unknown command " + os.Args[1])
	}
}

func validateSettings(input []byte) {
	var given settings
	if err := json.Unmarshal(input, &given); err != nil {
		fail(err.Error())
	}
	for _, name := range given.Forbidden {
		if _, both := given.Required[name]; both {
			say(map[string]any{"valid": false, "message": "annotation " + name + " is required and forbidden"})
			return
		}
	}
	say(map[string]any{"valid": true})
}

func validate(input []byte) {
	var asked request
	if err := json.Unmarshal(input, &asked); err != nil {
		fail(err.Error())
	}
	if asked.Settings.Lookup != "" {
		answer, ok := ask("net", "v1/dns_lookup_host", fmt.Sprintf("%q", asked.Settings.Lookup))
		say(map[string]any{"accepted": ok, "message": answer})
		return
	}
	if question := asked.Settings.Ask; question != nil {
		answer, ok := ask(question.Namespace, question.Operation, string(question.Payload))
		say(map[string]any{"accepted": ok, "message": answer})
		return
	}
	metadata, _ := asked.Request.Object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	for _, name := range asked.Settings.Forbidden {
		if _, there := annotations[name]; there {
			say(map[string]any{"accepted": false, "message": "forbidden annotation " + name, "code": 400})
			return
		}
	}
	changed := false
	for name, value := range asked.Settings.Required {
		if annotations[name] != value {
			if annotations == nil {
				annotations = map[string]any{}
			}
			annotations[name] = value
			changed = true
		}
	}
	if !changed {
		say(map[string]any{"accepted": true})
		return
	}
	metadata["annotations"] = annotations
	say(map[string]any{"accepted": true, "mutated_object": asked.Request.Object, "warnings": []string{"annotations were set"}})
}

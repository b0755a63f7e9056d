// A client of client-go that has streams to containers, and says in JSON what came of them: a list of what was written to
// standard output and to standard error, of exit codes and of errors, one for each time.
//
//	streamer --kubeconfig FILE exec    [--times N] [--websocket] --namespace NS POD ARGV...
//	streamer --kubeconfig FILE forward [--times N] [--websocket] --namespace NS POD PORT
//	streamer --kubeconfig FILE exec    [--times N] [--websocket] --url URL
//	streamer --kubeconfig FILE forward [--times N] [--websocket] --url URL POD PORT
//
// exec sends its own standard input to each command, and ends none of their inputs before it has sent all of them all of it.
// forward asks for "/" by HTTP, through one connection to the API server. A URL is that of a node itself, without TLS.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// How long all of it may take.
const limit = 80 * time.Second

type outcome struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Code   int    `json:"code"`
	Error  string `json:"error"`
}

type request struct {
	config    *rest.Config
	url       *url.URL
	websocket bool
	times     int
}

// An input whose end comes when all others have been read up to theirs.
type input struct {
	bytes   *bytes.Reader
	arrived sync.Once
	all     *sync.WaitGroup
}

func (i *input) Read(part []byte) (int, error) {
	size, err := i.bytes.Read(part)
	if err == io.EOF {
		i.arrive()
		i.all.Wait()
	}
	return size, err
}

func (i *input) arrive() {
	i.arrived.Do(i.all.Done)
}

func (r request) executor() (remotecommand.Executor, error) {
	if r.websocket {
		return remotecommand.NewWebSocketExecutor(r.config, "GET", r.url.String())
	}
	return remotecommand.NewSPDYExecutor(r.config, "POST", r.url)
}

func (r request) exec(ctx context.Context, stdin *input) outcome {
	defer stdin.arrive()
	var stdout, stderr bytes.Buffer
	executor, err := r.executor()
	if err == nil {
		options := remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr}
		err = executor.StreamWithContext(ctx, options)
	}
	result := outcome{Stdout: stdout.String(), Stderr: stderr.String()}
	var code exec.CodeExitError
	if errors.As(err, &code) {
		result.Code = code.Code
	} else if err != nil {
		result.Error = err.Error()
	}
	return result
}

func (r request) dialer() (httpstream.Dialer, error) {
	if r.websocket {
		return portforward.NewSPDYOverWebsocketDialer(r.url, r.config)
	}
	transport, upgrader, err := spdy.RoundTripperFor(r.config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", r.url), nil
}

func ask(ctx context.Context, port uint16) outcome {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return outcome{Error: err.Error()}
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	connection.SetDeadline(deadline)
	if _, err := io.WriteString(connection, "GET / HTTP/1.0\r\nhost: test\r\n\r\n"); err != nil {
		return outcome{Error: err.Error()}
	}
	answer, err := io.ReadAll(connection)
	result := outcome{Stdout: string(answer)}
	if err != nil {
		result.Error = err.Error()
	}
	return result
}

func (r request) forward(ctx context.Context, port string) ([]outcome, error) {
	dialer, err := r.dialer()
	if err != nil {
		return nil, err
	}
	stop, ready, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return nil, err
	}
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer close(stop)
	ports, err := forwarder.GetPorts()
	if err != nil {
		return nil, err
	}
	return r.often(func(int) outcome { return ask(ctx, ports[0].Local) }), nil
}

// Does something as often as it is asked for, all at once.
func (r request) often(once func(int) outcome) []outcome {
	outcomes := make([]outcome, r.times)
	var all sync.WaitGroup
	for number := range outcomes {
		all.Add(1)
		go func() {
			defer all.Done()
			outcomes[number] = once(number)
		}()
	}
	all.Wait()
	return outcomes
}

func podURL(config *rest.Config, namespace, pod, subresource string, argv []string) (*url.URL, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	request := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource(subresource)
	if subresource == "exec" {
		options := &corev1.PodExecOptions{Command: argv, Stdin: true, Stdout: true, Stderr: true}
		request = request.VersionedParams(options, scheme.ParameterCodec)
	}
	return request.URL(), nil
}

func run() ([]outcome, error) {
	kubeconfig := flag.String("kubeconfig", "", "the file")
	flag.Parse()
	what := flag.Arg(0)
	flags := flag.NewFlagSet(what, flag.ExitOnError)
	times := flags.Int("times", 1, "how often, at once")
	namespace := flags.String("namespace", "default", "of the pod")
	websocket := flags.Bool("websocket", false, "by WebSocket")
	direct := flags.String("url", "", "of a node, in place of the API server's")
	if flag.NArg() < 1 || flags.Parse(flag.Args()[1:]) != nil {
		return nil, errors.New("exec or forward?")
	}
	r := request{websocket: *websocket, times: *times}
	arguments := flags.Args()
	subresource := map[string]string{"exec": "exec", "forward": "portforward"}[what]
	var err error
	if *direct != "" {
		if r.url, err = url.Parse(*direct); err == nil {
			r.config = &rest.Config{Host: r.url.Scheme + "://" + r.url.Host}
		}
	} else if len(arguments) < 2 {
		err = errors.New("of which pod, and what?")
	} else if r.config, err = clientcmd.BuildConfigFromFlags("", *kubeconfig); err == nil {
		r.url, err = podURL(r.config, *namespace, arguments[0], subresource, arguments[1:])
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	switch what {
	case "exec":
		stdin, err := io.ReadAll(os.Stdin)
		if err != nil {
			return nil, err
		}
		var all sync.WaitGroup
		all.Add(r.times)
		return r.often(func(int) outcome {
			return r.exec(ctx, &input{bytes: bytes.NewReader(stdin), all: &all})
		}), nil
	case "forward":
		if len(arguments) != 2 {
			return nil, errors.New("which port?")
		}
		return r.forward(ctx, arguments[1])
	}
	return nil, fmt.Errorf("not %q", what)
}

func main() {
	outcomes, err := run()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(outcomes)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

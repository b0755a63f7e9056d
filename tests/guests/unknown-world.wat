;; A valid component of a world that no node knows: it imports an interface of nobody's.
(component
  (import "acme:rocket/engine@1.0.0" (instance (export "ignite" (func))))
  (core module $program
    (func (export "run")))
  (core instance $program (instantiate $program))
  (func $run (canon lift (core func $program "run")))
  (instance $pad (export "launch" (func $run)))
  (export "acme:rocket/pad@1.0.0" (instance $pad)))

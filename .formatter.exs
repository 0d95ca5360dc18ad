[
  inputs: [
    "{mix,.formatter}.exs",
    "{config,lib,test,bench,soak,offline}/**/*.{ex,exs}",
    "native/**/*.exs",
    "examples/*/mix.exs",
    "examples/*/{lib,test}/**/*.{ex,exs}"
  ]
]

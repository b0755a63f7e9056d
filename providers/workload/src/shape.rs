//! Where in a function's parameters and results there are resources: values without any are handed on as they are.

use std::collections::HashMap;

use wasmtime::component::{ResourceAny, ResourceType, Type, Val, types::ComponentFunc};

/// A type, as far as it has resources. Those are named by the numbers that they have between components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// None.
    Plain,
    Own(u32),
    Borrow(u32),
    /// Of lists of any kind, and of options.
    Each(Box<Shape>),
    /// Of records and tuples.
    Fields(Vec<Shape>),
    /// Of variants and results, those cases that have any.
    Cases(HashMap<String, Shape>),
}

/// The parameters and results of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: Vec<Shape>,
    pub(crate) results: Vec<Shape>,
}

/// What a value has that cannot be handed from one component to another, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotPassable(pub(crate) &'static str);

const OK: &str = "ok";
const ERR: &str = "err";

impl Signature {
    /// Of a function whose resources have these numbers.
    pub(crate) fn of(
        function: &ComponentFunc,
        number: &impl Fn(ResourceType) -> Option<u32>,
    ) -> Result<Self, NotPassable> {
        let params = function.params().map(|(_, ty)| Shape::of(&ty, number)).collect::<Result<_, _>>()?;
        let results = function.results().map(|ty| Shape::of(&ty, number)).collect::<Result<_, _>>()?;
        Ok(Self { params, results })
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.params.iter().chain(&self.results).all(|shape| *shape == Shape::Plain)
    }
}

impl Shape {
    fn of(ty: &Type, number: &impl Fn(ResourceType) -> Option<u32>) -> Result<Self, NotPassable> {
        const FOREIGN: NotPassable = NotPassable("a resource that is not the exporting component's own");
        let each = |ty: Type| Self::of(&ty, number).map(Self::each);
        match ty {
            Type::Own(ty) => number(*ty).map(Self::Own).ok_or(FOREIGN),
            Type::Borrow(ty) => number(*ty).map(Self::Borrow).ok_or(FOREIGN),
            Type::List(list) => each(list.ty()),
            Type::FixedLengthList(list) => each(list.ty()),
            Type::Option(option) => each(option.ty()),
            Type::Map(map) => {
                let fields = [map.key(), map.value()].map(|ty| Self::of(&ty, number));
                let [key, value] = fields;
                Ok(Self::each(Self::fields(vec![key?, value?])))
            }
            Type::Record(record) => {
                let fields =
                    record.fields().map(|field| Self::of(&field.ty, number)).collect::<Result<_, _>>()?;
                Ok(Self::fields(fields))
            }
            Type::Tuple(tuple) => {
                let fields = tuple.types().map(|ty| Self::of(&ty, number)).collect::<Result<_, _>>()?;
                Ok(Self::fields(fields))
            }
            Type::Variant(variant) => {
                let cases = variant.cases().filter_map(|case| Some((case.name.to_owned(), case.ty?)));
                Self::cases(cases, number)
            }
            Type::Result(result) => {
                let ok = result.ok().map(|ty| (OK.to_owned(), ty));
                let err = result.err().map(|ty| (ERR.to_owned(), ty));
                Self::cases(ok.into_iter().chain(err), number)
            }
            Type::Future(_) => Err(NotPassable("a future")),
            Type::Stream(_) => Err(NotPassable("a stream")),
            Type::ErrorContext => Err(NotPassable("an error-context")),
            Type::Bool
            | Type::S8
            | Type::U8
            | Type::S16
            | Type::U16
            | Type::S32
            | Type::U32
            | Type::S64
            | Type::U64
            | Type::Float32
            | Type::Float64
            | Type::Char
            | Type::String
            | Type::Enum(_)
            | Type::Flags(_) => Ok(Self::Plain),
        }
    }

    fn each(inner: Self) -> Self {
        if inner == Self::Plain { Self::Plain } else { Self::Each(Box::new(inner)) }
    }

    fn fields(fields: Vec<Self>) -> Self {
        if fields.iter().all(|field| *field == Self::Plain) { Self::Plain } else { Self::Fields(fields) }
    }

    fn cases(
        cases: impl Iterator<Item = (String, Type)>,
        number: &impl Fn(ResourceType) -> Option<u32>,
    ) -> Result<Self, NotPassable> {
        let mut with_resources = HashMap::new();
        for (name, ty) in cases {
            let shape = Self::of(&ty, number)?;
            if shape != Self::Plain {
                with_resources.insert(name, shape);
            }
        }
        Ok(if with_resources.is_empty() { Self::Plain } else { Self::Cases(with_resources) })
    }

    /// The same value with other resources.
    pub(crate) fn map(
        &self,
        value: &Val,
        resource: &mut impl FnMut(&Self, ResourceAny) -> wasmtime::Result<ResourceAny>,
    ) -> wasmtime::Result<Val> {
        let mut all = |shape: &Self, values: &[Val]| -> wasmtime::Result<Vec<Val>> {
            values.iter().map(|value| shape.map(value, &mut *resource)).collect()
        };
        Ok(match (self, value) {
            (Self::Plain, value) => value.clone(),
            (Self::Own(_) | Self::Borrow(_), Val::Resource(any)) => Val::Resource(resource(self, *any)?),
            (Self::Each(inner), Val::List(values)) => Val::List(all(inner, values)?),
            (Self::Each(inner), Val::FixedLengthList(values)) => Val::FixedLengthList(all(inner, values)?),
            (Self::Each(inner), Val::Option(value)) => {
                let value = value.as_deref().map(|value| inner.map(value, &mut *resource)).transpose()?;
                Val::Option(value.map(Box::new))
            }
            (Self::Each(inner), Val::Map(pairs)) => {
                let Self::Fields(shapes) = &**inner else { return Ok(value.clone()) };
                let [key, item] = shapes.as_slice() else { return Ok(value.clone()) };
                let pairs = pairs
                    .iter()
                    .map(|(k, v)| Ok((key.map(k, &mut *resource)?, item.map(v, &mut *resource)?)));
                Val::Map(pairs.collect::<wasmtime::Result<_>>()?)
            }
            (Self::Fields(shapes), Val::Record(fields)) => {
                let fields = shapes.iter().zip(fields);
                let fields = fields
                    .map(|(shape, (name, value))| Ok((name.clone(), shape.map(value, &mut *resource)?)));
                Val::Record(fields.collect::<wasmtime::Result<_>>()?)
            }
            (Self::Fields(shapes), Val::Tuple(values)) => {
                let values = shapes.iter().zip(values).map(|(shape, value)| shape.map(value, &mut *resource));
                Val::Tuple(values.collect::<wasmtime::Result<_>>()?)
            }
            (Self::Cases(cases), Val::Variant(name, Some(value))) => match cases.get(name) {
                Some(shape) => Val::Variant(name.clone(), Some(Box::new(shape.map(value, &mut *resource)?))),
                None => Val::Variant(name.clone(), Some(value.clone())),
            },
            (Self::Cases(cases), Val::Result(result)) => {
                let mut case = |name: &str, value: &Option<Box<Val>>| match (cases.get(name), value) {
                    (Some(shape), Some(value)) => {
                        shape.map(value, &mut *resource).map(|value| Some(Box::new(value)))
                    }
                    (_, value) => Ok(value.clone()),
                };
                Val::Result(match result {
                    Ok(value) => Ok(case(OK, value)?),
                    Err(value) => Err(case(ERR, value)?),
                })
            }
            // A case without anything in it. What has another type than the function is refused where it is lowered.
            (_, value) => value.clone(),
        })
    }
}

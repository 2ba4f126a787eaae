//! How a knob is a list: one file per value, one line in the list.

/// Turns a list of `file::Type` into an enum that is read from and written to config files by name, and `$with!`, which
/// runs an expression on the value's own type.
macro_rules! knob {
    ($d:tt $(#[$meta:meta])* $Any:ident in $home:ident, $with:ident, $what:literal, { $($module:ident::$Knob:ident),* $(,)? }) => {
        $(mod $module; pub use $module::$Knob;)*

        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $Any {
            $(#[doc = concat!("See [`", stringify!($Knob), "`].")] $Knob($Knob)),*
        }

        macro_rules! $with {
            ($d any:expr, $d knob:ident => $d body:expr) => {
                match $d any { $(crate::rules::miras::$home::$Any::$Knob($d knob) => $d body),* }
            };
        }
        #[allow(unused_imports)]
        pub(crate) use $with;

        impl $Any {
            /// Every value at its default settings, in the order of the list.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$Knob($Knob::default())),*]
            }
            /// Name in configs and tables.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$Knob(_) => $Knob::NAME),* }
            }
        }

        $(impl From<$Knob> for $Any {
            fn from(knob: $Knob) -> Self { Self::$Knob(knob) }
        })*

        impl serde::Serialize for $Any {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let settings = match self { $(Self::$Knob(k) => serde_json::to_value(k)),* };
                let settings = settings.map_err(serde::ser::Error::custom)?;
                crate::rules::named::with_name(self.name(), settings).serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $Any {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error as _;
                use crate::rules::named;
                let value = serde_json::Value::deserialize(deserializer)?;
                let (name, settings) = named::parts($what, value).map_err(D::Error::custom)?;
                let settings = serde_json::Value::Object(settings);
                let known = [$($Knob::NAME),*];
                let knob = match name.as_str() {
                    $($Knob::NAME => serde_json::from_value::<$Knob>(settings).map(Self::$Knob),)*
                    _ => {
                        let list = known.join(", ");
                        return Err(D::Error::custom(format!("unknown {} `{name}`, expected one of {list}", $what)));
                    }
                };
                knob.map_err(|e| D::Error::custom(format!("{} `{name}`: {e}", $what)))
            }
        }

        #[cfg(test)]
        mod list {
            #[test]
            fn every_file_of_the_folder_has_a_line_in_the_list() {
                let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file!());
                let names = [$(stringify!($module)),*];
                for entry in std::fs::read_dir(here.parent().unwrap()).unwrap() {
                    let file = entry.unwrap().file_name().into_string().unwrap();
                    let name = file.trim_end_matches(".rs");
                    assert!(name == "mod" || names.contains(&name), "{file} has no line in the list of {}", $what);
                }
            }
        }
    };
}
pub(crate) use knob;

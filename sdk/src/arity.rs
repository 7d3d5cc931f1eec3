//! What closures of values and of columns have in common: how many arguments
//! they take, and the context after these.

use std::marker::PhantomData;

/// The signature of a closure whose last parameter is the context.
#[doc(hidden)]
pub struct WithContext<Signature>(PhantomData<Signature>);

/// Expands a macro for each number of arguments from 1 to 12, with the
/// arguments' type parameters and positions.
macro_rules! for_each_arity {
    ($expand:ident) => {
        $expand!(1; A 0);
        $expand!(2; A 0, B 1);
        $expand!(3; A 0, B 1, C 2);
        $expand!(4; A 0, B 1, C 2, D 3);
        $expand!(5; A 0, B 1, C 2, D 3, E 4);
        $expand!(6; A 0, B 1, C 2, D 3, E 4, F 5);
        $expand!(7; A 0, B 1, C 2, D 3, E 4, F 5, G 6);
        $expand!(8; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
        $expand!(9; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
        $expand!(10; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
        $expand!(11; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
        $expand!(12; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
    };
}

/// Calls a closure, with the context if its flag is true.
macro_rules! call {
    ($function:expr; false, $ctx:ident; $($name:ident),*) => { $function($($name),*) };
    ($function:expr; true, $ctx:ident; $($name:ident),*) => { $function($($name,)* $ctx) };
}

pub(crate) use {call, for_each_arity};
